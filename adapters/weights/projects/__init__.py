"""The names that other projects give to timm's models: a file for each project, and the rules that read them."""
