"""The events port: a transactional outbox, whose events are delivered as CloudEvents 1.0.

`outbox` writes an event in the caller's transaction. `cloudevents` is the only module that imports the CloudEvents SDK.
`deliveries` has the state of each event per consumer: pending, delivered or dead letter. In standalone mode
`standalone.dispatcher` delivers events, on a cluster `broker` publishes them to a Knative Broker.
"""
