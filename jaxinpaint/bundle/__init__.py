"""What `jaxinpaint export` writes, opened and run without the code that trained it."""
