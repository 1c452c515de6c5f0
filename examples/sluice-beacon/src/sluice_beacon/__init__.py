"""
Beacon for Sluice.

Beacon is an invented licence server: it sells licences by the seat, tells of them by webhooks, and
reports how much they are used. `provider` proves and reads what it sends, `signature` has its
scheme and `licences` its objects; `usage` keeps the reports, and `crm` tells a CRM what tenants
gain and lose, whichever provider they have it from.
"""
