"""A page to look at a checkpoint: `mcl-hf demo`, and the Space that `mcl-hf push --with-space` writes.

Flow: checkpoint -> subject (what is opened, what is drawn of it) -> page (Gradio, extra `demo`). Gradio is imported
when a page is built, and by nothing else.
"""
