"""Jobs adapter for clusters: a `batch/v1` Job per job, admitted by Kueue."""
