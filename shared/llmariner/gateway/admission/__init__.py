"""Whether and when a request may use an engine: a queue per engine (the waiting room), replicas, facts about models."""
