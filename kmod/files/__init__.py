"""Files that are written whole, recognised by digest and safely named."""

from kmod.files.atomic import atomic_directory
from kmod.files.atomic import atomic_write
from kmod.files.atomic import check_output
from kmod.files.atomic import check_output_file
from kmod.files.atomic import check_outside
from kmod.files.atomic import is_sealed
from kmod.files.atomic import read_again_if_replaced
from kmod.files.atomic import remove_leftovers
from kmod.files.atomic import seal
from kmod.files.claims import claim
from kmod.files.claims import claimed
from kmod.files.claims import claims_scope
from kmod.files.digests import bytes_digest
from kmod.files.digests import check_files
from kmod.files.digests import data_digest
from kmod.files.digests import file_digest
from kmod.files.digests import file_record
from kmod.files.digests import list_files
from kmod.files.digests import read_files
from kmod.files.digests import unlisted
from kmod.files.names import keras_name
from kmod.files.names import short_names
from kmod.files.names import slug
from kmod.files.names import slugs

__all__ = [
    "atomic_directory",
    "atomic_write",
    "bytes_digest",
    "check_files",
    "check_output",
    "check_output_file",
    "check_outside",
    "claim",
    "claimed",
    "claims_scope",
    "data_digest",
    "file_digest",
    "file_record",
    "is_sealed",
    "keras_name",
    "list_files",
    "read_again_if_replaced",
    "read_files",
    "remove_leftovers",
    "seal",
    "short_names",
    "slug",
    "slugs",
    "unlisted",
]
