"""Whether and when a request may use an engine: the queue per engine (the waiting room), replicas, and facts about models."""
