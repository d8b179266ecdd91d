# Keeps a self-signed certificate for a domain ($2) and all names right below it, good for 30 more
# days, with its key in one file of the folder $1. Prints what it made; $3 is "check" to make
# nothing.
set -eu
umask 077
file=$1/certificates/$2.pem
command -v openssl >/dev/null || {
    echo "preview_gateway_tls=selfsigned needs openssl on the host (apt-get install openssl)." >&2
    exit 1
}
if openssl x509 -in "$file" -noout -checkend 2592000 >/dev/null 2>&1; then
    exit 0
fi
echo "a certificate for *.$2"
[ "$3" = apply ] || exit 0
mkdir -p "$1/certificates"
openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 397 \
    -subj "/CN=*.$2" -addext "subjectAltName=DNS:*.$2,DNS:$2" \
    -addext "extendedKeyUsage=serverAuth" -keyout "$file.key" -out "$file.crt"
cat "$file.crt" "$file.key" >"$file.new"
mv "$file.new" "$file"
rm "$file.crt" "$file.key"
