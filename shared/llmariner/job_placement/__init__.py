"""The placement of jobs on clusters: where one runs, how it leaves a lost or full cluster, and what it left there."""
