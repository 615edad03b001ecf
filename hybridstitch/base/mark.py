"""The mark of generated pictures: IPTC's source type "trained algorithmic media", as a packet of XMP."""

from __future__ import annotations

from PIL import Image

from hybridstitch._version import __version__

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's name for media that a trained model made. Search engines, social networks and photo tools read it."""
CREATOR_TOOL = f"hybridstitch {__version__}"
PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"
    xmp:CreatorTool="{CREATOR_TOOL}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
"""The packet. It is the same for every picture, so that equal pictures stay equal files."""

_KEY = "xmp"  # where Pillow puts the packet of a file that it opens


def mark(image: Image.Image) -> None:
    """Mark a picture as generated. `encode_image` then writes the mark into its file."""
    image.info[_KEY] = PACKET.encode()


def is_marked(image: Image.Image) -> bool:
    """Whether a picture carries this mark. Pictures with another packet do not."""
    return image.info.get(_KEY) == PACKET.encode()
