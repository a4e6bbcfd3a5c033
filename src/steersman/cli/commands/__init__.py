"""What each command does, one module a subject; each is imported only when one of its commands runs."""
