"""Pages, panels and plots; numpy in, files out."""
