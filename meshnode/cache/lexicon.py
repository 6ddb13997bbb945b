"""Words that turn a question into another one, and pairs of words that do not: closed classes and general usage.

No list here is about a subject, and none was made from a benchmark's pairs. Pure.
"""


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def _pairs(text: str) -> frozenset[tuple[str, str]]:
    split = [pair.partition("/") for pair in text.split()]
    return frozenset((one, other) for one, _, other in split) | frozenset(
        (other, one) for one, _, other in split
    )


NEGATORS = word_set(
    "not no never none nothing nobody nowhere neither nor without non hardly barely scarcely cannot except"
    " unless stop avoid refuse deny lack lacks fail fails failed refused avoided exclude excluding excludes"
)
EMPTY = word_set(
    "a an the do does to of that there please just very really actually so also then any some s 's"
)
"""Words that seldom change what is asked: articles, auxiliaries of questions, intensifiers."""

RELATIONS = word_set(
    "from into onto in on at by for with within before after during until till since under over above below"
    " between through across against about around near off out up down via per than as like i me my mine"
    " myself we us our ours you your yours he him his she her hers they them their theirs it its this these"
    " those all every each both either most more less least fewer many much few several only own other another"
    " same first last next previous can could may might must shall should will would need ought is are am was"
    " were be been being has have had having who whom whose which what when where why how did if because while"
    " and or but again still yet already now here always often sometimes usually ever once twice"
)
"""The other closed classes: a question that differs in one of these may be another question."""

CALENDAR = word_set(
    "monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays thursdays fridays"
    " saturdays sundays january february march april may june july august september october november december"
    " today tomorrow yesterday tonight weekday weekdays weekend weekends morning afternoon evening night noon"
    " midnight"
)
_UP_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen twenty"
)
NUMBERS = {word: str(value) for value, word in enumerate(_UP_TO_TWENTY.split())} | {
    "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
    "hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000", "dozen": "12",
    "half": "1/2", "quarter": "1/4", "double": "x2", "triple": "x3", "second": "2nd", "third": "3rd",
    "fourth": "4th", "fifth": "5th",
}  # fmt: skip

ANTONYMS = _pairs(
    "open/closed open/close opening/closing on/off in/out up/down start/stop start/end start/finish begin/end"
    " first/last before/after above/below over/under more/less most/least max/min maximum/minimum high/low"
    " higher/lower highest/lowest increase/decrease increase/reduce raise/lower rise/fall increased/decreased"
    " enable/disable enabled/disabled allow/forbid allow/block allowed/forbidden allowed/banned"
    " allowed/prohibited allow/deny permit/prohibit accept/reject accept/decline accept/refuse approve/reject"
    " add/remove include/exclude included/excluded with/without buy/sell buying/selling lend/borrow"
    " send/receive give/take give/receive import/export upload/download push/pull enter/exit enter/leave"
    " arrive/depart arrival/departure come/go inside/outside indoor/outdoor internal/external inbound/outbound"
    " incoming/outgoing entrance/exit public/private legal/illegal safe/dangerous good/bad better/worse"
    " best/worst right/wrong true/false yes/no hot/cold warm/cool wet/dry hard/soft easy/difficult easy/hard"
    " simple/complex fast/slow quick/slow early/late earliest/latest earlier/later old/new oldest/newest"
    " young/old long/short longer/shorter longest/shortest wide/narrow thick/thin heavy/light big/small"
    " large/small larger/smaller largest/smallest biggest/smallest full/empty fullest/emptiest strong/weak"
    " rich/poor cheap/expensive cheapest/priciest positive/negative advantage/disadvantage"
    " advantages/disadvantages benefit/drawback benefits/drawbacks pros/cons profit/loss gain/lose win/lose"
    " won/lost success/failure pass/fail increase/drop credit/debit deposit/withdraw deposit/withdrawal"
    " withdraw/pay save/spend save/delete create/delete create/destroy keep/delete keep/discard show/hide"
    " visible/hidden lock/unlock locked/unlocked mute/unmute connect/disconnect install/uninstall"
    " subscribe/unsubscribe follow/unfollow opt/quit join/leave login/logout encrypt/decrypt encode/decode"
    " compress/decompress attach/detach freeze/thaw expand/collapse zoom/shrink active/inactive online/offline"
    " domestic/international local/remote single/multiple single/double adult/child adults/children"
    " male/female men/women man/woman boy/girl husband/wife mother/father son/daughter brother/sister"
    " north/south east/west northern/southern eastern/western left/right top/bottom front/back day/night"
    " morning/evening morning/afternoon weekday/weekend weekdays/weekends today/tomorrow today/yesterday"
    " yesterday/tomorrow winter/summer spring/autumn monthly/yearly monthly/annual daily/weekly weekly/monthly"
    " same/different always/never all/none everything/nothing everyone/nobody ask/answer question/answer"
    " teacher/student buyer/seller employer/employee landlord/tenant parent/child doctor/patient cause/effect"
    " causes/effects cause/prevent fix/break build/demolish love/hate like/dislike agree/disagree"
    " approve/disapprove appear/disappear qualify/disqualify renew/cancel confirm/cancel book/cancel"
    " activate/cancel hire/fire gross/net input/output absent/present required/optional mandatory/optional"
    " temporary/permanent fixed/variable manual/automatic standard/premium upgrade/downgrade import/exports"
    " expire/renew paid/free paid/unpaid refundable/nonrefundable pay/charge check-in/check-out sooner/later"
    " forward/backward forwards/backwards ascending/descending odd/even primary/secondary major/minor"
    " majority/minority tall/short deep/shallow near/far closest/farthest bright/dark"
)
NEGATING_PREFIXES = (
    "un",
    "in",
    "im",
    "il",
    "ir",
    "non",
    "dis",
    "de",
    "anti",
    "mis",
    "out",
    "over",
    "under",
    "pre",
    "post",
)

_SYNONYM_SETS = (
    "buy purchase", "begin start commence", "finish complete", "big large", "small little", "quick fast rapid",
    "quickly fast rapidly", "fix repair mend", "help assist", "get obtain", "show display", "choose select pick",
    "change modify alter", "remove delete erase", "enable activate", "disable deactivate", "cost price",
    "phone telephone", "photo photograph picture", "email e-mail", "car automobile", "movie film", "job position",
    "error mistake", "answer reply response", "ask inquire enquire", "approximately roughly about", "need require",
    "allow permit", "allowed permitted", "make create", "create generate", "build construct", "use utilise utilize",
    "main principal primary", "rule regulation", "whole entire", "correct right", "wrong incorrect", "difficult hard",
    "easy simple", "sick ill", "kids children", "kid child", "mum mom mother", "dad father", "holiday vacation",
    "flat apartment", "shop store", "autumn fall", "rubbish trash garbage", "film movie", "mobile cellphone cell",
    "reply respond", "happen occur", "happens occurs", "explain describe",
    "terminate cancel", "speak talk", "maximum max", "minimum min", "information info details",
    "identification id", "advert ad advertisement", "documentation docs", "repository repo",
    "configure configuration config", "directory folder",
    "author writer", "large big", "purchase acquire", "bike bicycle", "tv television", "fridge refrigerator",
    "vet veterinarian", "doctor physician", "lawyer attorney", "exam examination", "gym gymnasium", "uni university",
    "pharmacy chemist", "update change", "register signup", "login signin",
    "annually yearly", "annual yearly", "nearby near", "distinction difference",
    "reason cause", "quantity amount", "fee charge", "postcode zipcode", "petrol gas gasoline",
    "lift elevator", "queue line", "trousers pants", "luggage baggage", "dinner supper", "nappy diaper",
)  # fmt: skip
SYNONYMS = frozenset(
    (one, other) for line in _SYNONYM_SETS for one in line.split() for other in line.split() if one != other
)
