"""For `jupyter lab --config=jupyter_config.py`: lists the notebooks only, and leaves them as they are when they are opened.

JupyterLab writes the version of the reader's Python into every notebook, which then counts as changed. Here a notebook
has that version when JupyterLab reads it, so that there is nothing to change, and loses it when JupyterLab saves it.
"""

import platform

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager


class Contents(AsyncLargeFileManager):
    """Files as they are, but for the version of Python that ran a notebook."""

    async def get(self, path, *args, **kwargs):
        """A file, or a folder's list; a notebook with the version that its kernel will name."""
        model = await super().get(path, *args, **kwargs)
        if model["type"] == "notebook" and model["content"]:
            language = model["content"]["metadata"].get("language_info", {})
            if language.get("name") == "python":
                language["version"] = platform.python_version()
        return model

    async def save(self, model, path=""):
        """Writes a file; a notebook without the version."""
        if model.get("type") == "notebook" and model.get("content"):
            model["content"]["metadata"].get("language_info", {}).pop("version", None)
        return await super().save(model, path)


c = get_config()  # noqa: F821, which Jupyter defines
c.ServerApp.contents_manager_class = Contents
c.ContentsManager.hide_globs = ["[!0-9]*.py", "*.toml", "*.md", "__pycache__", "*~"]
