"""The command line: typer commands, one file each. The only floor that prints."""
