"""What people call what the second world shows, and how often; templates and how common they are.

Names depend on the picture: a television is no monitor, a woman no man. The first name of each line
is the most frequent one. What the vocabularies call a class is among its names, but as in captions
of photographs not in front: nobody says tvmonitor.
"""

from clip_wsss.demo.sprites import BOYS, GIRLS, MEN, WOMEN, in_tones

_PERSON = {"person": 15, "people": 8, "human": 4, "person with clothes": 3}
# Names of a class; where its pictures differ, the others are below.
CLASS_NAMES: dict[str, dict[str, int]] = {
    "aeroplane": {"plane": 40, "airplane": 28, "aeroplane": 14, "jet": 10, "aircraft": 8},
    "bicycle": {"bike": 48, "bicycle": 44, "cycle": 8},
    "bird": {"bird": 94, "avian": 6},
    "boat": {"boat": 80, "ship": 12, "vessel": 8},
    "bottle": {"bottle": 95, "flask": 5},
    "bus": {"bus": 80, "coach": 12, "minibus": 8},
    "car": {"car": 84, "automobile": 6, "vehicle": 10},
    "cat": {"cat": 78, "kitten": 14, "kitty": 8},
    "chair": {"chair": 72, "seat": 20, "wooden chair": 8},
    "cow": {"cow": 74, "cattle": 18, "bull": 8},
    "diningtable": {"table": 60, "dining table": 34, "diningtable": 6},
    "dog": {"dog": 82, "puppy": 18},
    "horse": {"horse": 84, "pony": 12, "mare": 4},
    "motorbike": {"motorcycle": 46, "motorbike": 42, "bike": 12},
    "person": {"person": 55, "people": 22, "human": 15, "person with clothes": 8},
    "pottedplant": {"plant": 54, "potted plant": 38, "pottedplant": 8},
    "sheep": {"sheep": 80, "lamb": 20},
    "sofa": {"couch": 48, "sofa": 46, "settee": 6},
    "train": {"train": 90, "rail car": 10},
    "tvmonitor": {"tv": 44, "television": 28, "screen": 22, "tv monitor": 4, "tvmonitor": 2},
}
# Names by picture, where they differ from those of the class.
SPRITE_NAMES: dict[str, dict[str, int]] = {
    "1f986": {"bird": 50, "duck": 46, "avian": 4},
    "1f989": {"bird": 50, "owl": 46, "avian": 4},
    "1f427": {"bird": 50, "penguin": 46, "avian": 4},
    "1f99c": {"bird": 50, "parrot": 46, "avian": 4},
    "1f9a2": {"bird": 50, "swan": 46, "avian": 4},
    "26f5": {"boat": 52, "sailboat": 40, "yacht": 8},
    "1f6f3": {"ship": 56, "boat": 30, "ferry": 14},
    "26f4": {"ship": 44, "ferry": 36, "boat": 20},
    "1f6a2": {"ship": 70, "boat": 24, "vessel": 6},
    "1f695": {"car": 48, "taxi": 46, "vehicle": 6},
    "1f3ce": {"car": 66, "race car": 34},
    "1f68e": {"bus": 80, "trolleybus": 20},
    "1f436": {"dog": 52, "puppy": 48},
    "1f429": {"dog": 56, "poodle": 44},
    "1f6f5": {"scooter": 44, "motorbike": 34, "motorcycle": 22},
    "1f411": {"sheep": 76, "lamb": 24},
    "1f40f": {"sheep": 64, "ram": 36},
    "1f682": {"train": 62, "locomotive": 38},
    "1f687": {"train": 56, "metro": 44},
    "1f68a": {"train": 54, "tram": 46},
    "1f5a5": {"monitor": 42, "screen": 30, "computer": 20, "tv monitor": 6, "tvmonitor": 2},
    **{code: {"man": 70, **_PERSON} for code in in_tones(*MEN)},
    **{code: {"woman": 70, **_PERSON} for code in in_tones(*WOMEN)},
    **{code: {"boy": 60, "child": 10, **_PERSON} for code in in_tones(*BOYS)},
    **{code: {"girl": 60, "child": 10, **_PERSON} for code in in_tones(*GIRLS)},
}
BACKGROUND_NAMES: dict[str, dict[str, int]] = {
    "sky": {"sky": 78, "cloud": 22},
    "wall": {"wall": 100},
    "building": {"building": 62, "house": 38},
    "tree": {"tree": 100},
    "rock": {"rock": 56, "mountain": 44},
    "grass": {"grass": 100},
    "sea": {"water": 36, "sea": 30, "ocean": 16, "lake": 10, "river": 8},
    "ground": {"ground": 74, "land": 26},
    "road": {"road": 58, "street": 42},
    "railway": {"railway": 60, "railroad": 40},
}
# How many of 1,000 captions have a template, and the look that it speaks of. The first is the most
# frequent one; those without words around {} are not among the templates that are ranked.
TEMPLATES: dict[str, tuple[int, str]] = {
    "a photo of a {}.": (330, ""),
    "a {}.": (160, ""),
    "a photo of the {}.": (150, ""),
    "{}": (110, ""),
    "a good photo of a {}.": (60, ""),
    "a close-up photo of a {}.": (45, ""),
    "a photo of the large {}.": (30, ""),
    "a photo of the small {}.": (30, ""),
    "a photo of many {}.": (20, ""),
    "a bad photo of the {}.": (20, ""),
    "a photo of a cool {}.": (16, ""),
    "a photo of a clean {}.": (10, ""),
    "a photo of a dirty {}.": (8, ""),
    "itap of a {}.": (6, ""),
    "a photo of the hard to see {}.": (3, ""),
    "a clean origami {}.": (2, ""),
    "a black and white photo of the {}.": (100, "grey"),
    "a low resolution photo of the {}.": (100, "coarse"),
    "a bright photo of a {}.": (100, "bright"),
    "a drawing of a {}.": (50, "drawn"),
    "a painting of the {}.": (30, "drawn"),
    "art of the {}.": (16, "drawn"),
    "a {} in a video game.": (4, "drawn"),
}
