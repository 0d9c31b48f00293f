"""What commands are built from: the API client, configuration, errors and exit codes, output, prompts, Click extensions."""
