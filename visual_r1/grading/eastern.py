"""Units, and the words that join and end answers, where they are Chinese, Japanese or Korean."""

import re

# Words of other scripts that join or end answers. "Or" and "and" make two of one answer.
_WORDS = {
    "或者": " or ", "或是": " or ", "或": " or ", "または": " or ",
    "もしくは": " or ", "또는": " or ", "или": " or ", "以及": " and ", "并且": " and ",
    "和": " and ", "与": " and ", "及": " and ", "且": " and ", "そして": " and ",
    "그리고": " and ", "因为": " because ", "因為": " because ",
    "最终答案": "answer", "答案": "answer", "答え": "answer", "所以": " so ", "因此": " so ",
    "故": " so ", "是": " is ", "为": " is ", "為": " is ",
    "约等于": " \\approx ", "大约": " \\approx ", "约": " \\approx ", "等于": " = ",
    "平行于": " \\parallel ", "垂直于": " \\perp ", "全等于": " \\cong ", "相似于": " \\sim ",
    "三角形": " \\triangle ", "线段": " segment ", "根号": " \\surd ",
    "选项": " option ", "选择": " choose ", "选": " choose ",
}  # fmt: skip
_WORD = re.compile("|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True)))

# Chinese letters in front of what says that something is, are its name, as an English noun phrase
# is: `AB的长为12`, `正确答案：B`. In front of "choose" they lead up to it: `故选：B`.
_HAN = r"[\u4e00-\u9fff]"
# But those are none that deny, hedge, or make another value of it.
_DENIED = re.compile(
    "[不非否没沒未无無勿莫别別误誤错錯假伪偽除或和与與及且而但却如若倍余餘补補差多少超反另猜估约似旧舊谁誰加减減乘去]"
    "|半(?!径|徑)|之|大于|小于|可能|难道|本来|原来|也许|大概|其他|其它|根号|平方|立方|倒数|倒數|第"
)
_LABEL = re.compile(
    rf"\s*(?P<before>(?:{_HAN}|[,，])*)"
    rf"(?:(?P<name>[^\u4e00-\u9fff\s，。：；,:;=＝][^\u4e00-\u9fff，。：；,:;=＝]{{0,20}}?)"
    rf"\s*(?:的(?={_HAN}))?)?"
    rf"(?P<what>{_HAN}*?)\s*(?:等于|[是为為：:=＝])(?:[：:]\s*)?(?=[^\u4e00-\u9fff]|约|根号)"
)
_CHOICE = re.compile(rf"(?P<before>{_HAN}*?(?:[,，]{_HAN}*?)?)(?=选|選)")
_HEADING = re.compile(rf"\s*【(?P<words>{_HAN}{{1,8}})】\s*[:：]?\s*(?=\S)")
# What is named so in English too, so that a perimeter is no area.
_NOUNS = {
    "面积": "area", "面積": "area", "周长": "perimeter", "周長": "perimeter", "体积": "volume",
    "體積": "volume", "半径": "radius", "半徑": "radius", "直径": "diameter", "直徑": "diameter",
    "周率": "circumference", "概率": "probability", "斜率": "slope",
}  # fmt: skip

# As pint spells them.
_EASTERN = {
    "平方": " square ", "立方": " cubic ", "每": " per ", "毫米": " millimeter ",
    "厘米": " centimeter ", "公分": " centimeter ", "分米": " decimeter ", "千米": " kilometer ",
    "公里": " kilometer ", "公尺": " meter ", "米": " meter ", "毫克": " milligram ",
    "千克": " kilogram ", "公斤": " kilogram ", "公克": " gram ", "克": " gram ", "吨": " tonne ",
    "毫升": " milliliter ", "公升": " liter ", "升": " liter ", "公顷": " hectare ",
    "小时": " hour ", "小時": " hour ", "分钟": " minute ", "分鐘": " minute ", "秒": " second ",
    "天": " day ", "日": " day ", "周": " week ", "年": " year ", "弧度": " radian ",
    "摄氏度": " °C ", "度": " ° ", "元": " yuan ", "角": " jiao ", "円": " yen ",
    "英寸": " inch ", "英尺": " foot ", "英里": " mile ", "码": " yard ", "斤": " jin ",
    "伏特": " volt ", "伏": " volt ", "牛顿": " newton ", "牛": " newton ", "瓦特": " watt ",
    "瓦": " watt ", "焦耳": " joule ", "焦": " joule ", "千帕": " kilopascal ", "帕": " pascal ",
    "欧姆": " ohm ", "欧": " ohm ", "安培": " ampere ", "安": " ampere ", "赫兹": " hertz ",
    "摩尔": " mole ", "メートル": " meter ", "センチメートル": " centimeter ",
    "ミリメートル": " millimeter ", "キロメートル": " kilometer ", "時間": " hour ",
    "グラム": " gram ", "キログラム": " kilogram ", "リットル": " liter ",
    "센티미터": " centimeter ", "미터": " meter ", "도": " ° ", "원": " won ",
}  # fmt: skip
_EASTERN_NAME = "|".join(sorted(map(re.escape, _EASTERN), key=len, reverse=True))
_EASTERN_UNIT = re.compile(rf"(?<=[\d)}}])\s*((?:{_EASTERN_NAME})(?:/?(?:{_EASTERN_NAME}))*)")
# Measure words: so many of something.
_MEASURE_WORD = re.compile(
    r"(?<=\d)\s*(?:[个個只隻条條张張本人块塊支枝棵头頭匹辆輛件份双對对种種次倍名位朵颗顆粒根把台座间間页頁面边邊項项组組级級]|개|명)"
    r"[\u3040-\u30ff\u4e00-\u9fff]{0,6}$"
)


def in_english(text: str) -> str:
    """`24平方厘米` as `24 square centimeter`, `5个苹果` as `5 units`, `x=2或x=3` with an `or`."""
    if text.isascii():
        return text
    text = _without_label(text)
    text = re.sub(r"^([A-Z])、(?=\s*[^\sA-Za-z])", r"\1. ", text)
    text = _MEASURE_WORD.sub(" units", text)
    text = _EASTERN_UNIT.sub(
        lambda m: re.sub(_EASTERN_NAME, lambda name: _EASTERN[name[0]], m[1]), text
    )
    return _WORD.sub(lambda m: _WORDS[m[0]], text)


def _without_label(text: str) -> str:
    """The heading and the name in front in English, where nothing in them denies what follows."""
    heading = _HEADING.match(text)
    if heading is not None and not _DENIED.search(heading["words"]):
        text = text[heading.end() :]
    choice = _CHOICE.match(text)
    if choice is not None and not _DENIED.search(choice["before"]):
        return text[choice.end() :]
    label = _LABEL.match(text)
    if label is None or _DENIED.search(label["before"] + label["what"]):
        return text
    before, name, what = label["before"] or "", label["name"] or "", label["what"] or ""
    if not re.search(_HAN, before + what):
        return text
    noun = next((_NOUNS[end] for end in (what[-2:], before[-2:]) if end in _NOUNS), None)
    if noun is None and name:
        return f"{name} = {text[label.end() :]}"
    return f"the {noun or 'answer'} is {text[label.end() :]}"
