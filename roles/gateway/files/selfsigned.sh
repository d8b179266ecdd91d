# Keeps a self-signed certificate for a domain ($2) and all names right below it, good for 30 more
# days, in the folder $1, and prints it with its key. $3 is "check" to change nothing. What is
# changed is said on standard error.
set -eu
umask 077
file=$1/certificates/$2.pem
if ! openssl x509 -in "$file" -noout -checkend 2592000 >/dev/null 2>&1; then
    echo "a certificate for *.$2" >&2
    [ "$3" = apply ] || exit 0
    mkdir -p "$1/certificates"
    openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 397 \
        -subj "/CN=*.$2" -addext "subjectAltName=DNS:*.$2,DNS:$2" \
        -addext "extendedKeyUsage=serverAuth" \
        -keyout "$file.key" -out "$file.crt" 2>/dev/null
    cat "$file.crt" "$file.key" >"$file.new"
    mv "$file.new" "$file"
    rm "$file.crt" "$file.key"
fi
cat "$file"
