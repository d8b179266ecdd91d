#!/bin/sh
set -eu

case ${1:-} in
    -* | *.conf) set -- redis-server "$@" ;;
esac

if [ "$1" = redis-server ]; then
    shift
    # The real image is compiled with protected mode off: others connect from their containers.
    set -- redis-server "$@" --protected-mode no
    if [ "$(id -u)" = 0 ]; then
        find . \! -user redis -exec chown redis '{}' +
        exec setpriv --reuid redis --regid redis --clear-groups -- "$@"
    fi
fi

exec "$@"
