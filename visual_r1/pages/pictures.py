"""Pictures on their way into a browser: as they are stored where that is sound, else as a PNG.

What a browser is told of a file is what the file is: its first bytes decide, never a name. It is
decoded whole before it leaves; an SVG, an animation, or what else could do more than be looked at
never does.
"""

import io

from starlette.responses import PlainTextResponse, Response

from visual_r1.data.bitstreams import is_clean_jpeg
from visual_r1.data.images import BadImage, over_white, whole_image
from visual_r1.data.png_stream import is_clean_png

_TYPES = {"PNG": ("image/png", is_clean_png), "JPEG": ("image/jpeg", is_clean_jpeg)}
# The address names the content: a dataset by its digest, predictions by that of their file.
_FOR_GOOD = "private, max-age=31536000, immutable"


def picture_answer(data: bytes | None) -> Response:
    """The answer with a picture; with a sentence, and no picture, where it is none."""
    if data is None:
        return PlainTextResponse("There is no such picture.", 404)
    try:
        image = whole_image(data)
        kind, is_clean = _TYPES.get(image.format or "", ("", None))
        if is_clean is None or not is_clean(data):
            flat, _ = over_white(image)
            flat.info.clear()
            out = io.BytesIO()
            flat.save(out, format="PNG")
            data, kind = out.getvalue(), "image/png"
    except BadImage as error:
        return PlainTextResponse(f"The picture cannot be shown: {error}.", 415)
    return Response(data, media_type=kind, headers={"Cache-Control": _FOR_GOOD})
