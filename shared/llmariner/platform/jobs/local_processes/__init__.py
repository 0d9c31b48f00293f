"""Jobs as child processes of one machine, each in Linux namespaces of its own."""
