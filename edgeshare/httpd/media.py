"""Which media type a file's name stands for: a table of ours.

Not `mimetypes`: its answer depends on the machine's own files, and a script that one node calls text runs nowhere else.
"""

from __future__ import annotations

UNKNOWN = "application/octet-stream"

_TYPES = {
    # pages and what they load; text is UTF-8, as lessons are published
    "html": "text/html; charset=utf-8",
    "htm": "text/html; charset=utf-8",
    "xhtml": "application/xhtml+xml",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "json": "application/json",
    "map": "application/json",
    "webmanifest": "application/manifest+json",
    "wasm": "application/wasm",
    "xml": "application/xml",
    # pictures
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
    "ico": "image/x-icon",
    # sound and film
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "webm": "video/webm",
    "ogv": "video/ogg",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "oga": "audio/ogg",
    "opus": "audio/ogg",
    "m4a": "audio/mp4",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "vtt": "text/vtt; charset=utf-8",
    # letters
    "woff": "font/woff",
    "woff2": "font/woff2",
    "ttf": "font/ttf",
    "otf": "font/otf",
    # documents
    "pdf": "application/pdf",
    "epub": "application/epub+zip",
    "odt": "application/vnd.oasis.opendocument.text",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "txt": "text/plain; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "tex": "text/x-tex; charset=utf-8",
    "ggb": "application/vnd.geogebra.file",
    "zip": "application/zip",
    "h5p": "application/zip",
    "torrent": "application/x-bittorrent",
}


def media_type(path: str) -> str:
    """The `Content-Type` of the file at `path`, by the last suffix of its name, in any case; else `UNKNOWN`."""
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return _TYPES.get(suffix.lower(), UNKNOWN) if stem and dot else UNKNOWN
