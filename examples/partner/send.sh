#!/bin/sh
# Push a file of results, or ask what became of it.
#
#     sh send.sh URL ID [FILE TYPE]
#
# The secret is in WEBHOOK_SECRET. Any POSIX shell, curl 7.76 or newer, openssl.
set -eu
url=$1 id=$2 file=${3:-} type=${4:-} secret=${WEBHOOK_SECRET:?is not set}
if [ -n "$file" ] && ! [ -r "$file" ]; then
    echo "$file cannot be read" >&2 # or its signature would be that of nothing
    exit 1
fi

# openssl wants the key in hex, as an argument: whoever may list processes here can read it.
key=$(printf %s "${secret#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
timestamp=$(date +%s)
# Sign exactly the bytes that are sent: of a compressed file, the compressed ones.
signature=$({ printf '%s.%s.' "$id" "$timestamp"; cat "${file:-/dev/null}"; } |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A)

set -- -H "webhook-id: $id" -H "webhook-timestamp: $timestamp" \
    -H "webhook-signature: v1,$signature"
if [ -n "$file" ]; then
    set -- "$@" -H "content-type: $type" --data-binary "@$file"
    case $file in *.gz) set -- "$@" -H "content-encoding: gzip" ;; esac
fi
# Tries again after 408, 429 and 5xx, when Retry-After says, for as long as the timestamp counts.
curl -sS --fail-with-body --retry 8 --retry-connrefused --retry-max-time 240 "$@" "$url"
