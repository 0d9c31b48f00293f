"""The events port: what happened is written beside what changed (outbox), then delivered as CloudEvents 1.0.

`outbox` writes an event in the caller's transaction. `wire` is the only module that knows the CloudEvents SDK.
`deliveries` keeps, per event and consumer, what was delivered, what is due again and what is dead. Who carries an event
differs by home: on one machine the dispatcher in `local`, on a cluster the Broker.
"""
