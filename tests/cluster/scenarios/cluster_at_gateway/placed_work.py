"""What the tests of this scenario know of the platform's settings and of its model on the worker cluster."""

__all__ = ["LONGEST_SECONDS", "MODEL", "PACKAGED", "RECONNECT_SECONDS", "SETTINGS"]

PACKAGED, MODEL = "smollm2-135m-instruct", "gateway-smollm2"
# Short for a test: half of what a request may take, as the default is of an hour.
RECONNECT_SECONDS, LONGEST_SECONDS = 40, 80
# Jobs whose program needs volumes of the platform's own cluster are not placed elsewhere.
SETTINGS = {"LLMARINER_TRAINING_VOLUMES": "", "LLMARINER_JOB_MEMORY_GIB": "2.5", "LLMARINER_JOB_CPU": "900m"}
