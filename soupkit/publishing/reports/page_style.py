"""How the page of a report looks: on a desk, on a phone, in the dark and on paper."""

from soupkit.publishing.reports.style import DARK, LIGHT, Theme


def _colours(theme: Theme) -> str:
    return (
        f"--page:{theme.page};--ink:{theme.ink};--soft:{theme.soft};--line:{theme.grid};--soup:{theme.soup};"
        f"--link:{theme.ingredient}"
    )


STYLE = (
    ":root{color-scheme:light dark;" + _colours(LIGHT) + "}"
    "@media(prefers-color-scheme:dark){:root{" + _colours(DARK) + "}}"
    """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:1.0625rem/1.6 Charter,"Bitstream Charter","Sitka Text",
Cambria,Georgia,serif}
main{display:grid;grid-template-columns:minmax(1rem,1fr) minmax(0,44rem) minmax(1rem,1fr);padding:3.5rem 0 5rem}
main>*{grid-column:2;min-width:0}
main>.wide{grid-column:1/-1;justify-self:center;width:max-content;min-width:min(44rem,calc(100% - 2rem));
max-width:min(calc(100% - 2rem),78rem)}
h1{font-size:clamp(1.7rem,5vw,2.3rem);line-height:1.2;font-weight:600;letter-spacing:-.01em;margin:0 0 .6rem;
text-wrap:balance;overflow-wrap:anywhere}
h2{font-size:1.3rem;line-height:1.3;font-weight:600;margin:3.2rem 0 .7rem;overflow-wrap:anywhere}
p{margin:0 0 .9rem;overflow-wrap:anywhere}
.answer{margin:0 0 1.2rem;padding:.2rem 0 .2rem 1rem;border-left:3px solid var(--soup)}
.answer p{margin:0 0 .3rem}
.answer p:first-child{font-weight:600}
.lead{color:var(--soft);margin-bottom:0}
figure{margin:0}
figure img{display:block;width:100%;height:auto}
figcaption,.note,summary,footer,nav{font:.875rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
color:var(--soft);overflow-wrap:anywhere}
figcaption{margin-top:.6rem}
details{margin-top:.5rem}
summary{cursor:pointer;width:fit-content}
summary:hover{color:var(--ink)}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
a{color:var(--link);text-underline-offset:.15em}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;margin:1.4rem 0 0;padding:.7rem 0 0;
border-top:1px solid var(--line)}
.anchor{color:var(--soft);text-decoration:none;font-weight:400;opacity:.45;font-size:.85em}
.anchor:hover,.anchor:focus-visible{opacity:1}
h2:target{color:var(--soup)}
button{font:inherit;color:inherit;background:none;border:0;padding:0;text-align:inherit;cursor:pointer}
th button:hover{color:var(--link)}
[aria-sort=descending] button:after{content:" \\2193"}
[aria-sort=ascending] button:after{content:" \\2191"}
button.csv{display:block;margin:.4rem 0 0 auto;color:var(--link);text-decoration:underline;text-underline-offset:.15em;
font:.8rem/1.4 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
.scroll{overflow-x:auto;max-width:100%;max-height:36rem;overflow-y:auto}
table{border-collapse:collapse;font:.875rem/1.4 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
font-variant-numeric:tabular-nums;width:100%}
caption{text-align:left;color:var(--soft);padding-bottom:.6rem;caption-side:top}
caption span{display:block;position:sticky;left:0;max-width:calc(100vw - 2.2rem)}
th,td{padding:.38rem .9rem .38rem 0;text-align:right;vertical-align:baseline;border-bottom:1px solid var(--line)}
thead th{position:sticky;top:0;z-index:1;vertical-align:bottom;font-weight:600;background:var(--page);
border-bottom:1.5px solid var(--ink);min-width:4.6em}
th:first-child,td.text,th.text{text-align:left}
tbody th{font-weight:400;min-width:9em;max-width:22em;overflow-wrap:anywhere}
tbody tr:last-child>*{border-bottom:1.5px solid var(--ink)}
.scores th:first-child{position:sticky;left:0;background:var(--page)}
.scores thead th:first-child{z-index:2}
@media(min-width:40.01rem){.scores th:first-child{min-width:17em}}
.soup th{color:var(--soup);font-weight:600}
.ci{display:block;color:var(--soft);font-size:.78em;white-space:nowrap}
.text{overflow-wrap:anywhere}
.pictures{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.8rem}
.pictures li{width:96px;font-size:.78em;overflow-wrap:anywhere}
.pictures img{width:96px;height:96px;object-fit:contain;image-rendering:pixelated;display:block}
footer{margin-top:4rem;border-top:1px solid var(--line);padding-top:.8rem}
@media(max-width:40rem){main{padding-top:2rem}th,td{padding-right:.55rem}thead th{min-width:3.4em}
tbody th{min-width:6em}
.scores th:first-child{max-width:40vw;min-width:8.5em}}
@media print{:root{"""
    + _colours(LIGHT)
    + """}
body{font-size:10.5pt}main{display:block;padding:0}h2{margin-top:1.6rem;break-after:avoid}
.scroll{max-height:none;overflow:visible}.scores thead th,.scores th:first-child,thead th{position:static}
table{font-size:8pt}tr,figure,.answer{break-inside:avoid}
main>.wide{min-width:0;max-width:none;width:auto}nav,button.csv,.anchor,summary{display:none}}
"""
)
