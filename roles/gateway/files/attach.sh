# Attaches the gateway ($1) to every preview's edge network that it is not attached to, and prints
# each. $2 is "check" to print only. A gateway that was made anew is on its own network alone.
set -eu
attached=$(docker container inspect \
    -f '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}' "$1" 2>/dev/null) || attached=
docker network ls --filter label=ephemera.preview/name \
    --format '{{.Name}} {{.Label "ephemera.preview/name"}}' |
while read -r network preview; do
    [ "$network" = "${preview}_edge" ] || continue
    case " $attached " in *" $network "*) continue ;; esac
    [ "$2" = check ] || docker network connect "$network" "$1"
    echo "$network"
done
