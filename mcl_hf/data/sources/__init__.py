"""Images from anywhere, opened: addresses, folders, tables, archives, mixtures, their columns and licences."""
