/* The style sheet of a report, and text and bytes as HTML takes them. See report.h.
 *
 * One column of at most 68 rem that narrows to a phone's width; light or dark as the reader's
 * system asks. What may be wider than the page (tables) scrolls in a box of its own.
 */
#include "train/report.h"

const char report_style[] =
    ":root{color-scheme:light dark;--paper:#fbfaf8;--panel:#fff;--ink:#22211f;--quiet:#6b6862;\n"
    "--line:#e3e0da;--c0:#2b6cb0;--c1:#c05621;--c2:#2f855a;--c3:#805ad5;\n"
    "--c4:#b83280;--c5:#7b6a12}\n"
    "@media(prefers-color-scheme:dark){:root{--paper:#17181a;--panel:#1f2023;--ink:#e6e4df;\n"
    "--quiet:#9b9a95;--line:#34363a;--c0:#6cb0f0;--c1:#f0955e;--c2:#68c795;--c3:#b39df3;\n"
    "--c4:#ee86c0;--c5:#d6c35c}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\n"
    "main{max-width:68rem;margin:0 auto;padding:2rem 1.25rem 4rem}\n"
    "h1{font-size:1.75rem;line-height:1.2;margin:0 0 .25rem;overflow-wrap:anywhere}\n"
    "h2{font-size:1.2rem;margin:2.5rem 0 .75rem}\n"
    "h3{font-size:1rem;margin:0 0 .5rem;overflow-wrap:anywhere}\n"
    ".note{color:var(--quiet);font-size:.875rem;margin:.25rem 0 .5rem}\n"
    ".cards{display:grid;gap:1rem;\n"
    "grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr))}\n"
    ".card,.chart,.table{background:var(--panel);border:1px solid var(--line);border-radius:8px;\n"
    "padding:1rem 1.25rem}\n"
    ".card dl{display:grid;grid-template-columns:auto minmax(0,1fr);gap:.2rem 1rem;margin:0;\n"
    "font-size:.9rem}\n"
    ".card dt{color:var(--quiet)}\n"
    ".card dd{margin:0;text-align:right;overflow-wrap:break-word}\n"
    "i{display:inline-block;width:.75rem;height:.75rem;border-radius:50%;margin-right:.5rem;\n"
    "background:var(--c)}\n"
    ".c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}\n"
    ".c5{--c:var(--c5)}\n"
    ".charts{display:grid;gap:1rem;grid-template-columns:minmax(0,2fr) minmax(0,1fr)}\n"
    ".chart{margin:0}\n"
    ".chart figcaption{font-weight:600;margin-bottom:1rem}\n"
    ".plot{position:relative;height:20rem;margin:0 1.25rem 2rem 3.75rem}\n"
    ".plot svg{display:block;width:100%;height:100%;border:solid var(--line);\n"
    "border-width:0 0 1px 1px;overflow:visible}\n"
    ".plot path{fill:none;stroke:var(--c);stroke-linejoin:round;stroke-linecap:round;\n"
    "vector-effect:non-scaling-stroke}\n"
    ".plot .grid{stroke:var(--line);stroke-width:1}\n"
    ".plot .raw{stroke-width:1;opacity:.4}\n"
    ".plot .mean{stroke-width:2}\n"
    ".plot span{position:absolute;color:var(--quiet);font-size:.8rem;line-height:1;\n"
    "white-space:nowrap;font-variant-numeric:tabular-nums}\n"
    ".plot .y{right:100%;margin-right:.5rem;transform:translateY(-50%)}\n"
    ".plot .x{top:100%;margin-top:.5rem;transform:translateX(-50%)}\n"
    ".legend{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;margin:0;padding:0;\n"
    "font-size:.9rem;overflow-wrap:anywhere}\n"
    ".table{overflow-x:auto;margin-bottom:1rem}\n"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:.5rem .75rem;text-align:right;vertical-align:top;\n"
    "border-top:1px solid var(--line)}\n"
    "thead th{border-top:0}\n"
    "th:first-child{text-align:left;padding-left:0;font-weight:500}\n"
    "td:last-child,th:last-child{padding-right:0}\n"
    ".best{font-weight:700}\n"
    "small{display:block;color:var(--quiet);font-weight:400}\n"
    "th small{overflow-wrap:anywhere}\n"
    ".row{display:grid;gap:1rem;margin-bottom:2rem;\n"
    "grid-template-columns:repeat(auto-fit,minmax(min(100%,13rem),1fr))}\n"
    ".row figure{margin:0;max-width:34rem}\n"
    ".row img{display:block;width:100%;height:auto;border-radius:6px}\n"
    ".row figcaption{color:var(--quiet);font-size:.875rem;padding-top:.35rem;\n"
    "overflow-wrap:anywhere}\n"
    ".none{border:1px dashed var(--line);border-radius:6px;padding:2rem 1rem;text-align:center;\n"
    "color:var(--quiet)}\n"
    "@media(max-width:48rem){.charts{grid-template-columns:minmax(0,1fr)}}\n"
    "@media(max-width:40rem){.plot{height:14rem;margin-right:.75rem}main{padding-top:1.25rem}\n"
    "th,td{padding:.5rem .35rem}"
    ".plot .x:nth-child(odd){display:none}}\n";

void report_text(FILE *out, const char *text)
{
    for (const char *c = text; *c; c++) {
        switch (*c) {
        case '&': fputs("&amp;", out); break;
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '"': fputs("&quot;", out); break;
        case '\'': fputs("&#39;", out); break;
        default: fputc(*c >= 0 && *c < ' ' ? ' ' : *c, out);
        }
    }
}

void report_base64(FILE *out, const void *data, size_t n_bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *bytes = data;
    for (size_t i = 0; i < n_bytes; i += 3) {
        size_t n = n_bytes - i < 3 ? n_bytes - i : 3;
        uint32_t group = 0;
        for (size_t k = 0; k < 3; k++) group = group << 8 | (k < n ? bytes[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            fputc(k <= n ? digits[group >> (18 - 6 * k) & 63] : '=', out);
    }
}
