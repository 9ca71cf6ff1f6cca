"""From a command stream to devices, and from devices to a receipts stream.

    page -> elements -> `parsing` -> `reception` (ids, routes, age) -> accepted -> `executor` -> source -> receipt

`book` is what is durable: rows that the journal commits together with the receipts they belong to (`outbox`).
"""
