"""The API: it reads, in a role that can do nothing else; what is ordered goes into the inbox."""
