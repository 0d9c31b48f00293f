"""Who is measured beside our function, one file each: how it is configured and started."""
