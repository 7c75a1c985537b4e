"""What each subcommand of `jaxinpaint` takes and does: on the roof."""
