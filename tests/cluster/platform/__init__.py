"""The platform on the test cluster: images, what the overlay needs of this machine, installation, models.

`python -m tests.cluster.platform up|down` installs and removes it; the scenarios of `../scenarios` use what it installed.
"""
