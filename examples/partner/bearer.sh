curl -sS --fail-with-body -H "authorization: Bearer $WEBHOOK_SECRET" -H "idempotency-key: $ID" \
    -H "content-type: application/x-ndjson" --data-binary "@$FILE" "$URL"
