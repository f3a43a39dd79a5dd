"""Images from anywhere, opened: addresses, folders, tables, archives, mixtures, their columns and licences.

`open_source` is the door. Whatever a user got wrong is an `InputError` of one line, raised where it is seen.
"""
