"""The commands of users, one file each: a parser, what it calls, and what it prints."""
