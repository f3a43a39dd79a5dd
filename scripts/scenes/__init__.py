"""Composed scenes: a transfer benchmark of real cut-outs on real backgrounds, made on the user's machine.

Flow: fetch -> archives + licences -> catalogue + backgrounds -> cutouts (index.json) -> folds -> pool -> appearance +
blending -> compose -> annotations + statistics -> generate. Beside it: contact (physics and a renderer instead of
pasting) and picture (an example that may be shown). The command is `scripts/make_scenes.py`.
"""
