"""HTTP of the function `sessions`, by who calls: people, agents with other replicas, and functions of the control plane."""
