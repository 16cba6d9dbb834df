"""Options, their values, and the plugins that an installation has."""
