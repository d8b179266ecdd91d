#!/usr/bin/env bash
# The contract of the real image's entry point: on an empty PGDATA make a cluster, user and
# database from POSTGRES_*, run /docker-entrypoint-initdb.d/*, then serve. While that goes on
# the server listens on a unix socket only: who reaches it by TCP finds it complete.
set -euo pipefail

# A variable may be given in a file instead: POSTGRES_PASSWORD_FILE=/run/secrets/…
from_file() {
    local name=$1 file=$1_FILE
    if [[ ${!name:-} && ${!file:-} ]]; then
        echo "error: both $name and $file are set (but are exclusive)" >&2
        exit 1
    fi
    if [[ ${!file:-} ]]; then
        export "$name=$(<"${!file}")"
    fi
    unset "$file"
}

initialise() {
    local method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [[ -z ${POSTGRES_PASSWORD:-} && $method != trust ]]; then
        cat >&2 <<'TEXT'
Error: Database is uninitialized and superuser password is not specified.
       You must specify POSTGRES_PASSWORD to a non-empty value for the superuser.
TEXT
        exit 1
    fi
    local arguments=()
    eval "arguments=(${POSTGRES_INITDB_ARGS:-})"
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "${POSTGRES_PASSWORD:-}") \
        ${POSTGRES_INITDB_WALDIR:+--waldir="$POSTGRES_INITDB_WALDIR"} "${arguments[@]}"
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"

    pg_ctl --pgdata="$PGDATA" --options="-c listen_addresses='' -p ${PGPORT:-5432}" --wait start
    export PGPASSWORD=${PGPASSWORD:-${POSTGRES_PASSWORD:-}}
    if [[ $POSTGRES_DB != postgres ]]; then
        POSTGRES_DB='' psql_as_user --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
    fi
    for file in /docker-entrypoint-initdb.d/*; do
        run_script "$file"
    done
    unset PGPASSWORD
    pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
    echo 'PostgreSQL init process complete; ready for start up.'
}

psql_as_user() {
    PGHOST='' PGHOSTADDR='' psql --set ON_ERROR_STOP=1 --no-password --no-psqlrc --username "$POSTGRES_USER" \
        ${POSTGRES_DB:+--dbname "$POSTGRES_DB"} "$@"
}

run_script() {
    [[ -e $1 ]] || return 0
    echo "$0: running $1"
    case $1 in
        *.sh) if [[ -x $1 ]]; then "$1"; else . "$1"; fi ;;
        *.sql) psql_as_user --file "$1" ;;
        *.sql.gz) gunzip --stdout "$1" | psql_as_user ;;
        *.sql.xz) xzcat "$1" | psql_as_user ;;
        *.sql.zst) zstd --decompress --stdout "$1" | psql_as_user ;;
        *) echo "$0: ignoring $1" ;;
    esac
}

if [[ ${1:-} == -* ]]; then
    set -- postgres "$@"
fi

if [[ $1 == postgres ]]; then
    if [[ $(id -u) == 0 ]]; then
        install -d -o postgres -g postgres -m 0700 "$PGDATA"
        find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
        exec setpriv --reuid postgres --regid postgres --init-groups -- "$0" "$@"
    fi
    from_file POSTGRES_PASSWORD
    from_file POSTGRES_USER
    from_file POSTGRES_DB
    from_file POSTGRES_INITDB_ARGS
    export POSTGRES_USER=${POSTGRES_USER:-postgres}
    export POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}
    if [[ ! -s $PGDATA/PG_VERSION ]]; then
        initialise
    fi
fi

exec "$@"
