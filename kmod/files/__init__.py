"""Files that are written whole, recognised by digest and safely named."""

from kmod.files.atomic import atomic_directory
from kmod.files.atomic import atomic_write
from kmod.files.digests import data_digest
from kmod.files.digests import directory_digests
from kmod.files.digests import file_digest
from kmod.files.digests import list_files
from kmod.files.names import slug
from kmod.files.names import slugs

__all__ = [
    "atomic_directory",
    "atomic_write",
    "data_digest",
    "directory_digests",
    "file_digest",
    "list_files",
    "slug",
    "slugs",
]
