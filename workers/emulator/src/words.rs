//! What records are made of.

/// Pin categories, with their usual tags.
pub(crate) const CATEGORIES: [(&str, &str); 14] = [
    ("art", "Drawings,Painting,Sketches"),
    ("beauty", "Makeup,Skin Care,Hair"),
    ("christmas", "Tree,Decorations,Gifts"),
    ("diy-and-crafts", "Paper,Wood,Upcycling"),
    ("education", "Reading,Maths,Classroom"),
    ("event-planning", "Weddings,Tables,Flowers"),
    ("finance", "Saving,Budget,Retirement"),
    ("home-decor", "Living Room,Kitchen,Plants"),
    ("mens-fashion", "Outfits,Suits,Shoes"),
    ("quotes", "Life,Love,Work"),
    ("tattoos", "Small,Sleeve,Flowers"),
    ("travel", "Beaches,Cities,Mountains"),
    ("vehicles", "Cars,Motorbikes,Vintage"),
    ("café-culture", "Kaffee,コーヒー,Açaí"),
];

/// Countries, some beyond ASCII.
pub(crate) const COUNTRIES: [&str; 24] = [
    "Afghanistan",
    "Albania",
    "Algeria",
    "American Samoa",
    "Argentina",
    "Armenia",
    "Aruba",
    "Australia",
    "Azerbaijan",
    "Bahamas",
    "Bangladesh",
    "Barbados",
    "Bulgaria",
    "Cocos (Keeling) Islands",
    "Colombia",
    "Côte d'Ivoire",
    "Curaçao",
    "Guatemala",
    "Korea",
    "Mauritius",
    "Réunion",
    "Türkiye",
    "United States of America",
    "Åland Islands",
];

/// First names.
pub(crate) const FIRST_NAMES: [&str; 20] = [
    "Abigail",
    "Aaron",
    "Alejandra",
    "Brian",
    "Chloë",
    "Christopher",
    "David",
    "Elif",
    "François",
    "Jennifer",
    "José",
    "Kenji",
    "Maria",
    "Michelle",
    "Oluwaseun",
    "Rachel",
    "Søren",
    "Tiffany",
    "Юлия",
    "美咲",
];

/// Last names.
pub(crate) const LAST_NAMES: [&str; 20] = [
    "Ali", "Alvarez", "Anderson", "Brown", "Davis", "Evans", "García", "Hughes", "Ivanova", "Jackson", "Müller",
    "Nguyễn", "O'Brien", "Okafor", "Parker", "Smith", "Stevens", "Williams", "Yılmaz", "佐藤",
];

/// Words of titles and descriptions; some need escapes in JSON.
pub(crate) const WORDS: [&str; 28] = [
    "simple",
    "ideas",
    "for",
    "a",
    "summer",
    "evening",
    "the",
    "best",
    "10",
    "ways",
    "to",
    "paint",
    "your",
    "\"tiny\"",
    "garden",
    "with",
    "crème",
    "brûlée",
    "and",
    "back\\slash",
    "line\nbreak",
    "tab\there",
    "🌿",
    "日本",
    "cheap",
    "vintage",
    "cosy",
    "outfits",
];
