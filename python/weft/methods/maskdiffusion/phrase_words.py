"""The words that the rules for phrases know, all lower case: what opens a phrase, what ends one, what is no object."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _terms(text: str) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(term.split()) for term in text.split(","))


# --- what opens a phrase

DETERMINERS = _words(
    "a an the this these those some several many few both each every another any all various multiple "
    "his her their its my our your "
    "one two three four five six seven eight nine ten eleven twelve dozen 2 3 4 5 6 7 8 9 10 11 12"
)

# --- what ends one

CONJUNCTIONS = _words("and or plus & + versus vs")

# where one thing is beside another: an object may follow without a determiner in a bare list
PLACING = _terms(
    "with, without, on, near, beside, behind, above, below, beneath, under, underneath, over, atop, "
    "left of, right of, to the left of, to the right of, on the left of, on the right of, at the left of, "
    "at the right of, on the left side of, on the right side of, to the left side of, to the right side of, "
    "next to, close to, in front of, on top of, on the top of, along with, together with, as well as, opposite to, "
    "adjacent to"
)
PREPOSITIONS = PLACING | _terms(
    "onto, in, into, at, of, off, by, to, from, for, inside, outside, within, between, among, amongst, amid, around, "
    "about, across, through, throughout, along, against, beyond, past, toward, towards, during, before, after, up, "
    "down, upon, alongside, opposite, via, per, like, as, than, in the middle of, in the center of, in the centre of, "
    "in the front of, at the top of, at the bottom of, on the side of, at the side of, on either side of, "
    "in the style of, in the shape of, in the form of, in between, away from, out of, inside of, outside of, "
    "instead of, such as, because of"
)
LONGEST_PREPOSITION = max(map(len, PREPOSITIONS))

# verbs that do not end in -ing, and small words that belong to no phrase
BREAKING = _words(
    "is are was were be been being am has have had having do does did can could will would "
    "sits sit sat stands stood wears wear wore holds hold held rode eats eat ate drank flew ran walked played jumps "
    "jumped sleeps sleep slept lies lay looks looked swims swim swam chases chase chased carries carry carried reads "
    "says shows made that that's which who whom whose where when while but not no nor then there here "
    "it they he she him them we us you i together alone outdoors indoors away again too very"
)

# -ing words that are nouns; those without another vowel (ring, wing, string, spring) are known by that
ING_NOUNS = _words(
    "earring something anything nothing everything offspring hamstring drawstring shoestring viking building painting "
    "drawing ceiling railing clothing wedding pudding morning evening lightning awning dumpling duckling sapling "
    "sibling starling gosling seedling hatchling herring stocking icing frosting filling topping dressing crossing "
    "landing engraving etching carving bedding flooring lettering lighting rigging scaffolding siding moulding "
    "molding gathering casing coating covering opening wrapping piercing sterling darling lining lemming lapwing"
)
# -ed words that are nouns
ED_NOUNS = _words("bed seed weed shed sled steed reed feed breed speed moped seaweed flowerbed riverbed")
# --- adjectives: between a determiner and its noun, and as a rule no noun themselves

ADJECTIVES = _words(
    "red green blue yellow orange purple pink white black brown gray grey golden silver violet cyan magenta turquoise "
    "teal beige crimson scarlet indigo maroon navy lavender blonde blond "
    "big small large little tiny huge giant tall short long wide narrow thick thin fat slim round flat "
    "old young new ancient modern antique vintage rustic medieval futuristic "
    "beautiful pretty cute lovely elegant handsome ugly gorgeous adorable fluffy furry soft hard smooth rough shiny "
    "bright dark pale vivid transparent glossy matte metallic wooden woolen woollen plastic "
    "happy sad angry scared sleepy tired lonely friendly funny serious evil fierce wild tame "
    "hot cold warm cool wet dry snowy rainy sunny cloudy foggy stormy misty dusty muddy dirty clean "
    "empty full open closed broken whole striped dotted spotted plain simple fancy cheap expensive "
    "fresh ripe rotten sweet sour spicy raw real mechanical electric robotic magical mythical epic majestic "
    "massive enormous gigantic miniature lush dense deep high low steep distant single double "
    "different same similar other quiet busy crowded"
)
ADJECTIVE_ENDINGS = ("ful", "ous", "less", "looking", "like", "haired", "eyed", "shaped", "colored", "coloured")

# --- what a prompt names that is no object of the picture

PICTURES = _words(
    "photo photos photograph picture image painting drawing illustration sketch portrait render rendering cartoon "
    "close-up closeup shot view snapshot poster artwork depiction scene print watercolor watercolour selfie art "
    "screenshot still wallpaper mosaic collage engraving"
)
# what comes between the noun of a picture and what the picture is of
SHOWING = _words("of showing depicting featuring")
# heads of phrases that name a place in the picture, a time or a manner
NOT_OBJECTS = _words(
    "background backdrop foreground left right top bottom middle center centre front back side distance corner "
    "style manner way kind type sort day night morning evening afternoon noon midnight dawn dusk sunset "
    "sunrise daylight moonlight sunlight lighting weather summer winter autumn season time moment camera viewer focus "
    "quality detail details resolution atmosphere mood"
)
# words that, without a determiner, speak of how a picture is made
STYLE = (
    _words(
        "4k 8k 16k hd uhd hdr hq 3d 2d cgi vfx dslr rtx 35mm 50mm 85mm detailed detail details intricate realistic "
        "photorealistic hyperrealistic photorealism realism masterpiece quality resolution rendered artstation "
        "deviantart trending cinematic dramatic lighting octane unreal engine photography bokeh depth sharp focus "
        "focused lens exposure aesthetic award-winning professional studio volumetric raytracing concept digital "
        "oil stylized hyperdetailed ultra-detailed high-quality high-resolution vibrant composition"
    )
    | PICTURES
)
# "a group of dogs" is one phrase, and its noun is "dogs"
COLLECTIONS = _words("group pair couple bunch set number row herd flock pack stack pile crowd team lot lots swarm")
