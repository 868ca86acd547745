"""The words that the rules of `cleaning_mends` and `cleaning_drops` share, as pieces of regular expressions in lower case."""

import re

MARK = "___"
"""What a de-identification mark has become before a rule sees it; a run of marks has become two."""

NEGATION = re.compile(
    r"\b(?:no|not|nor|neither|never|none|without|cannot|can't|isn't|aren't|negative|free|absen\w+|resol\w+)\b", re.IGNORECASE
)

SEEN_ON = r"(?:seen|noted|visuali[sz]ed|appreciated|identified|demonstrated|observed)"
SEEN = SEEN_ON.replace(")", "|present)")
SHOW = r"(?:show(?:s|ed)?|demonstrate[sd]?|reveal(?:s|ed)?)"

# Films -----------------------------------------------------------------------------------------------------------------

FILM = r"(?:views?|projections?|films?|radiographs?|x-rays?|images?|exam(?:ination)?s?|stud(?:y|ies))"
OF_A_FILM = r"(?:pa|ap|frontal|lateral|portable|supine|upright|semi-?upright|semi-?erect|erect|single|limited|bedside|chest)"
VIEW = (
    rf"(?:(?:the |this |these |an? )?(?:current |single )?{OF_A_FILM}(?:(?: and|,)? {OF_A_FILM})* {FILM}"
    rf"|(?:this|these|today's|the current) {FILM})\b"
)

# Comparisons -----------------------------------------------------------------------------------------------------------

ADVERB = (
    r"(?:(?:overall|grossly|essentially|largely|relatively|roughly|fairly|generally|mostly|also|likely|otherwise|likewise|"
    r"(?:not )?(?:significantly|substantially|appreciably|markedly)) )*"
)
IN_WHAT = (
    r"(?: in (?:size|appearance|position|extent|configuration|contour|distribution|severity|degree|location|morphology)(?: and \w+)?)?"
)
AS_BEFORE = rf"{ADVERB}(?:unchanged|stable|similar|not (?:\w+ly )?changed){IN_WHAT}"
SINCE = r"(?: (?:since|from|than|as compared|when compared|compared|in comparison|to|with|as)\b[^,.;]*)?"
SAYS_LITTLE = r"(?:appearance|silhouette|size|contours?|exam\w*|chest|structures|mediastinum)"
"""Of these "stable" is all that is said; they need an adjective."""
ADJECTIVE = (
    r"(?:normal|(?:non-?)?enlarged|(?:very )?(?:mild|moderate|severe|marked)(?:ly)?|prominent|tortuous|unremarkable|borderline|low|clear|"
    r"large|small)"
)

# Findings --------------------------------------------------------------------------------------------------------------

ATTRIBUTE = (
    r"(?:(?:very )?(?:small|moderate|large|tiny|trace|minimal|mild|severe|marked|extensive|subtle|faint|minor|moderately|mildly|minimally|"
    r"slight|sized|multiple|several|two|three|left|right|bilateral|unilateral|upper|middle|mid|lower|lobes?|lungs?|zones?|bases?|apex|apical|biapical|"
    r"basilar|bibasilar|basal|bibasal|hilar|perihilar|retrocardiac|mediastinal|pleural|pulmonary|parenchymal|interstitial|vascular|alveolar|"
    r"airspace|hiatal|rib|clavicular|vertebral|thoracic|calcified|noncalcified|linear|patchy|hazy|focal|diffuse|multifocal|loculated|layering|"
    r"peripheral|central|subpleural|masslike|dense|subsegmental|discoid|platelike|plate-like|adjacent|overlying|compressive|chronic|old|healed|"
    r"healing|nodular|reticular|streaky|subcutaneous|compression|degenerative|dual-chamber|single-chamber|dual-lead|venous|endotracheal|"
    r"nasogastric|orogastric|enteric|feeding|tracheostomy|sternotomy|surgical|internal|jugular|subclavian|ij|picc|ng|et|port-a-cath|icd|chest|"
    r"wall|cardiac|granulomatous|(?:left|right)-sided|-|to|and|moderate-to-large|small-to-moderate|mild-to-moderate),? )"
)
ONE_FINDING = (
    r"effusion|pneumothorax|hydropneumothorax|opacity|infiltrate|nodule|mass|granuloma|fracture|deformity|hernia|lesion|cavity|"
    r"pacemaker|pacer|catheter|tube|line|picc|port|port-a-cath|stent|defibrillator|generator|drain"
)
FINDINGS = (
    r"effusions|pneumothoraces|opacities|infiltrates|nodules|masses|granulomas|fractures|deformities|lesions|calcifications|scars|"
    r"bullae|plaques|osteophytes|catheters|tubes|lines|leads|wires|clips|stents|drains|low lung volumes|"
    r"degenerative changes|fibrotic changes"
)
MUCH_OF_A_FINDING = (
    r"cardiomegaly|atelectasis|edema|consolidation|opacification|scarring|emphysema|congestion|fibrosis|scoliosis|kyphosis|engorgement|"
    r"calcification|thickening|hyperinflation|"
    r"(?:airspace|lung|interstitial|granulomatous|disc|pleural|pulmonary|vascular) disease|pneumoperitoneum|pneumomediastinum|cephalization"
)
NAMED_FINDING = rf"{ATTRIBUTE}{{0,6}}(?:{ONE_FINDING}|{FINDINGS}|{MUCH_OF_A_FINDING})\b"
"""A noun phrase that can only be a finding or a device: of these alone "is unchanged" is as much as "is there"."""
PLACE = rf"(?: (?:in|at|of|within) (?:the )?{ATTRIBUTE}{{0,4}}(?:lungs?|lobes?|bases?|apex|apices|zones?|hemithorax|hilum|aorta|spine))?"
