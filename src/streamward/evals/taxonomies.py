"""The taxonomies of other guards and sets, mapped on our nine categories (tables: docs/reference/evaluation.md).

A name without a clear counterpart maps to None: the text is unsafe, its category unknown. Keys are in lower case.
"""

from collections.abc import Mapping

from streamward.schema import Category

Table = Mapping[str, Category | None]

_C = Category

LLAMA_GUARD: Table = {
    "s1": _C.VIOLENT,  # violent crimes
    "s2": _C.ILLEGAL_ACTS,  # non-violent crimes
    "s3": _C.SEXUAL,  # sex-related crimes
    "s4": _C.SEXUAL,  # child sexual exploitation
    "s5": _C.UNETHICAL,  # defamation
    "s6": None,  # specialized advice
    "s7": _C.PII,  # privacy
    "s8": _C.COPYRIGHT,  # intellectual property
    "s9": _C.VIOLENT,  # indiscriminate weapons
    "s10": _C.UNETHICAL,  # hate
    "s11": _C.SELF_HARM,  # suicide and self-harm
    "s12": _C.SEXUAL,  # sexual content
    "s13": _C.POLITICAL,  # elections
    "s14": None,  # code interpreter abuse
}

OPENAI_MODERATION: Table = {
    "s": _C.SEXUAL,
    "s3": _C.SEXUAL,
    "h": _C.UNETHICAL,
    "h2": _C.UNETHICAL,
    "hr": _C.UNETHICAL,
    "v": _C.VIOLENT,
    "v2": _C.VIOLENT,
    "sh": _C.SELF_HARM,
    "sexual": _C.SEXUAL,
    "sexual/minors": _C.SEXUAL,
    "hate": _C.UNETHICAL,
    "hate/threatening": _C.UNETHICAL,
    "harassment": _C.UNETHICAL,
    "harassment/threatening": _C.UNETHICAL,
    "violence": _C.VIOLENT,
    "violence/graphic": _C.VIOLENT,
    "self-harm": _C.SELF_HARM,
    "self-harm/intent": _C.SELF_HARM,
    "self-harm/instructions": _C.SELF_HARM,
    "illicit": _C.ILLEGAL_ACTS,
    "illicit/violent": _C.VIOLENT,
}

AEGIS: Table = {
    "violence": _C.VIOLENT,
    "threat": _C.VIOLENT,
    "guns and illegal weapons": _C.VIOLENT,
    "guns/illegal weapons": _C.VIOLENT,
    "criminal planning/confessions": _C.ILLEGAL_ACTS,
    "controlled/regulated substances": _C.ILLEGAL_ACTS,
    "illegal activity": _C.ILLEGAL_ACTS,
    "fraud/deception": _C.ILLEGAL_ACTS,
    "malware": _C.ILLEGAL_ACTS,
    "sexual": _C.SEXUAL,
    "sexual minor": _C.SEXUAL,
    "sexual (minor)": _C.SEXUAL,
    "suicide and self harm": _C.SELF_HARM,
    "suicide and self-harm": _C.SELF_HARM,
    "pii/privacy": _C.PII,
    "hate/identity hate": _C.UNETHICAL,
    "harassment": _C.UNETHICAL,
    "profanity": _C.UNETHICAL,
    "immoral/unethical": _C.UNETHICAL,
    "manipulation": _C.UNETHICAL,
    "political/misinformation/conspiracy": _C.POLITICAL,
    "copyright/trademark/plagiarism": _C.COPYRIGHT,
}

SAFERLHF: Table = {  # and BeaverTails
    "violence,aiding_and_abetting,incitement": _C.VIOLENT,
    "terrorism,organized_crime": _C.VIOLENT,
    "violence": _C.VIOLENT,
    "physical harm": _C.VIOLENT,
    "drug_abuse,weapons,banned_substance": _C.ILLEGAL_ACTS,
    "financial_crime,property_crime,theft": _C.ILLEGAL_ACTS,
    "economic crime": _C.ILLEGAL_ACTS,
    "white-collar crime": _C.ILLEGAL_ACTS,
    "cybercrime": _C.ILLEGAL_ACTS,
    "drugs": _C.ILLEGAL_ACTS,
    "human trafficking": _C.ILLEGAL_ACTS,
    "sexually_explicit,adult_content": _C.SEXUAL,
    "sexual content": _C.SEXUAL,
    "self_harm": _C.SELF_HARM,
    "privacy_violation": _C.PII,
    "privacy violation": _C.PII,
    "hate_speech,offensive_language": _C.UNETHICAL,
    "discrimination,stereotype,injustice": _C.UNETHICAL,
    "non_violent_unethical_behavior": _C.UNETHICAL,
    "animal_abuse": _C.VIOLENT,
    "insulting behavior": _C.UNETHICAL,
    "discriminatory behavior": _C.UNETHICAL,
    "mental manipulation": _C.UNETHICAL,
    "psychological harm": _C.UNETHICAL,
    "copyright issues": _C.COPYRIGHT,
}

SIMPLE_SAFETY_TESTS: Table = {
    "suicide, self-harm, and eating disorders": _C.SELF_HARM,
    "suicide, self-harm and eating disorders": _C.SELF_HARM,
    "physical harm and violence": _C.VIOLENT,
    "physical harm": _C.VIOLENT,
    "illegal and highly regulated items": _C.ILLEGAL_ACTS,
    "illegal items": _C.ILLEGAL_ACTS,
    "scams and fraud": _C.ILLEGAL_ACTS,
    "scams & fraud": _C.ILLEGAL_ACTS,
    "child safety": None,
    "child abuse": None,
}

HARMBENCH: Table = {
    "copyright": _C.COPYRIGHT,
    "cybercrime_intrusion": _C.ILLEGAL_ACTS,
    "illegal": _C.ILLEGAL_ACTS,
    "chemical_biological": _C.VIOLENT,
    "harassment_bullying": _C.UNETHICAL,
    "misinformation_disinformation": None,
    "harmful": None,
}

WILDGUARD: Table = {
    "private_information_individual": _C.PII,
    "sensitive_information_organization_government": _C.PII,
    "sensitive_information_organization": _C.PII,
    "copyright_violations": _C.COPYRIGHT,
    "sexual_content": _C.SEXUAL,
    "violence_and_physical_harm": _C.VIOLENT,
    "social_stereotypes_and_unfair_discrimination": _C.UNETHICAL,
    "toxic_language_hate_speech": _C.UNETHICAL,
    "defamation_encouraging_unethical_or_unsafe_actions": _C.UNETHICAL,
    "fraud_assisting_illegal_activities": _C.ILLEGAL_ACTS,
    "cyberattack": _C.ILLEGAL_ACTS,
    "mental_health_over-reliance_crisis": _C.SELF_HARM,
    "mental_health_crisis": _C.SELF_HARM,
}

OURS: Table = {category.value.lower(): category for category in Category}
"""Names of our own, as gpt-oss-safeguard answers under a policy written with them."""
