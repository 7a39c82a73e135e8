"""The commands of ``dense-adapters``, a file each: a parser, the call that it stands for, and what is printed."""
