"""What the gateway sends back: heads, error bodies, relayed streams, heartbeats of requests that wait."""
