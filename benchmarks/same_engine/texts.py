"""The passages that the prompts are made of: invented, about ninety tokens each, with names and numbers in them."""

HARBOUR = (
    "The ferry Aurelia leaves the old harbour of Vinga at nine in the morning and returns at six in the evening. A "
    "ticket costs 14 crowns, and bicycles travel free of charge. In winter, from November to March, there is only one "
    "crossing a day, and when the wind blows harder than 20 metres a second there is none. The harbour master, Ingrid "
    "Solberg, hangs a red lantern from the crane when the boat stays in port."
)
MUSEUM = (
    "In the museum by the square hangs a map of a river that nobody has found since. It was drawn in 1491 by a monk "
    "named Anselmo, who had never left his monastery, from what pilgrims told him over 30 years. The museum opens on "
    "Sundays from May to August and asks for no entrance fee. Its keeper, Tomas Hale, likes to show visitors the three "
    "islands in the river's mouth, which have the shapes of a key, a bell and a hare."
)
BAKERY = (
    "Bakers in this town begin work at two at night. Their rye bread is kneaded from a dough that is 80 years old; it "
    "keeps for a week and is eaten with butter or pickled fish. On Fridays the bakery of Marta Lindqvist sells saffron "
    "buns, 250 of them, and none is left by noon. The ovens burn birch wood from the hills behind the church, and the "
    "ash goes to the gardeners, who pay for it in apples."
)
LIGHTHOUSE = (
    "The lighthouse was built in 1890 of granite that was brought over the sea in 47 barges. Its keeper lit the lamp "
    "every evening until it was made electric, and wrote down the wind of every day for thirty years, and once that he "
    "had seen a whale. The tower is 31 metres high and has 164 steps. Since 2004 a family of kestrels has nested "
    "behind the upper window, so the window is not opened in spring."
)
SCHOOL = (
    "The school on the island has eleven pupils and one teacher, Elin Brandt, who came for a summer 22 years ago. "
    "Lessons are held in the old boathouse while the roof is mended. Every child learns to row before it learns to "
    "divide, and in June the oldest ones row the whole class round the island, 9 kilometres, with a stop for pancakes. "
    "The record, 1 hour and 52 minutes, has stood since 1998."
)
GARDEN = (
    "Behind the church lies a garden with 60 kinds of roses, planted by the botanist Ruth Okafor after her return from "
    "the mountains. Each bed has a number on a slate, and a book in the porch says where every plant was found. "
    "Visitors may cut one flower each if they leave a coin in the watering can. Most of the roses bloom in July; the "
    "white one in bed 17 has bloomed in December twice."
)
WEAVERS = (
    "The weavers' guild keeps its rules in a chest with three locks, whose keys three members hold. A cloth must have "
    "24 threads to the centimetre, and whoever sells a thinner one pays 5 crowns into the fund for widows. The last "
    "fine was paid in 1911 by Jonas Pettersen, who laughed as he paid it, as the minutes say. Today the guild has 40 "
    "members, of whom six still own a loom."
)
OBSERVATORY = (
    "From the observatory on the northern ridge the comet could be seen for 19 nights. Doctor Amara Vance photographed "
    "it with a plate camera from 1926, because the new telescope, delivered in March, waited for a screw. Her pictures "
    "show two tails, one of dust and one of gas, at an angle of 40 degrees. The observatory is open to the public on "
    "the first Thursday of every month, and tea is served whatever the sky does."
)

# The same passages after an edit: other numbers and names, other words, or told again.
HARBOUR_OTHER_FACTS = HARBOUR.replace("14 crowns", "19 crowns").replace("Ingrid Solberg", "Karin Aasen")
LIGHTHOUSE_OTHER_FACTS = LIGHTHOUSE.replace("1890", "1873").replace("164 steps", "188 steps")
MUSEUM_OTHER_WORDS = (
    MUSEUM.replace("hangs a map", "one sees a chart")
    .replace("told him", "related to him")
    .replace("asks for no entrance fee", "charges nothing for admission")
)
BAKERY_RETOLD = (
    "In this town the bakers start their work at two in the night. Their bread of rye is made from an 80 years old "
    "dough; it stays good for a week, and people eat it with butter or with pickled herring. Each Friday Marta "
    "Lindqvist's bakery offers 250 saffron buns, and before noon all of them are gone. Birch wood from the hills past "
    "the church heats the ovens, and the gardeners get the ash and pay with apples."
)
UNRELATED = (
    "def merge(left, right):\n    result, i, j = [], 0, 0\n    while i < len(left) and j < len(right):\n        if "
    "left[i] <= right[j]:\n            result.append(left[i]); i += 1\n        else:\n            result.append("
    "right[j]); j += 1\n    return result + left[i:] + right[j:]\n\n\nassert merge([1, 4], [2, 3]) == [1, 2, 3, 4]"
)

WHEN_BUILT = "When was the lighthouse built?\n\nAnswer:"
WHO_KEEPS = "Who shows visitors the map, and what is on it?\n\nAnswer:"
WHAT_COSTS = "What does a ticket for the ferry cost?\n\nAnswer:"


def prompt(*parts: str) -> str:
    """Passages and a question, a paragraph each."""
    return "\n\n".join(parts)
