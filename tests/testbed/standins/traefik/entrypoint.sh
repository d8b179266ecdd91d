#!/bin/sh
set -eu

# Options, or a command of traefik, may stand alone.
case ${1:-} in
    -* | healthcheck | version) set -- traefik "$@" ;;
esac

exec "$@"
