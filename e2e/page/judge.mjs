// Judges a gallery of the customers' page: node judge.mjs GALLERY [--all]
//
// In Chromium, in light and dark: axe-core; at 320 px (which is 1280 px at 400 %) nothing is cut off
// or scrolls sideways; with the keyboard, what has the focus shows it; no request leaves the origin;
// nothing breaks the content security policy. Then pa11y (HTML_CodeSniffer) and vnu.
// Every state is seen in every language. Unless all is asked for, each of them and each colour is seen
// in one of the two schemes, in turn (English in both), and pa11y and vnu are shown fewer languages,
// which differ in words only.
// Prints a line for each problem, then what was judged; ends with 1 if there was any problem.
import { chromium } from 'playwright-core'
import pa11y from 'pa11y'
import puppeteer from 'puppeteer'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { serve } from './serve.mjs'

const require = createRequire(import.meta.url)
const [gallery, option] = process.argv.slice(2)
const all = option === '--all'
const { pages } = JSON.parse(readFileSync(join(gallery, 'index.json'), 'utf8'))
const server = await serve(gallery)
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8')
const launch = { executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] }

const colours = [...new Set(pages.map(file => file.split('/')[0]))].filter(it => /^[0-9a-f]{6}$/.test(it))
const states = [...new Set(pages.map(file => file.split('/')[1]))]

const problems = []
const counts = {}
const problem = (tool, file, text) => { problems.push(`${tool} ${file}: ${text}`) }
const judged = tool => { counts[tool] = (counts[tool] ?? 0) + 1 }
const seconds = {}

async function timed (name, work) {
  const start = performance.now()
  await work()
  seconds[name] = Math.round((performance.now() - start) / 100) / 10
}

/** Takes from one list with several hands. */
async function inParallel (list, hands, make) {
  const waiting = [...list]
  await Promise.all(Array.from({ length: hands }, async () => {
    const { work, end } = await make()
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await work(next)
    await end()
  }))
}

const RULES = {
  runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
  resultTypes: ['violations'],
  elementRef: false
}

/** Runs in the page: what sticks out. */
const overflow = () => {
  const wide = document.documentElement.scrollWidth - innerWidth
  const out = [...document.querySelectorAll('main *, header *, footer *')].filter(it => {
    const box = it.getBoundingClientRect()
    return box.width > 1 && !it.closest('.hidden, .skip, .search .b span, svg') && (box.right > innerWidth + 1 || box.left < -1)
  })
  return wide > 0 || out.length > 0 ? `${wide} px too wide; ${out.map(it => it.outerHTML.slice(0, 80))}` : ''
}

/** Runs in the page: whether what has the focus shows it. */
const focused = () => {
  const it = document.activeElement
  if (!it || it === document.body) return { end: true }
  const style = getComputedStyle(it)
  const shown = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2
  const box = it.getBoundingClientRect()
  return { shown, seen: box.width > 0 && box.height > 0 && box.right > 0 && box.bottom > 0, what: it.outerHTML.slice(0, 90) }
}

async function inChromium (browser) {
  const schemes = ['light', 'dark']
  const work = []
  for (const [index, file] of pages.entries()) {
    const [folder] = file.split('/')
    if (all || folder === 'en') work.push({ file, schemes })
    // Each state in one of the colours.
    else if (!/^[0-9a-f]{6}$/.test(folder) || colours.indexOf(folder) === states.indexOf(file.split('/')[1]) % colours.length) {
      work.push({ file, schemes: [schemes[index % 2]] })
    }
  }
  await inParallel(work, 2, async () => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce' })
    const page = await context.newPage()
    let now = ''
    page.on('request', request => {
      if (!request.url().startsWith(server.origin) && !request.url().startsWith('data:')) problem('requests', now, request.url())
    })
    page.on('console', message => { if (message.type() === 'error') problem('console', now, message.text()) })
    page.on('pageerror', error => problem('console', now, String(error)))
    return {
      end: () => context.close(),
      work: async ({ file, schemes }) => {
        await page.setViewportSize({ width: 1280, height: 900 })
        now = file
        await page.goto(`${server.origin}/${file}`)
        await page.evaluate(axe)
        for (const scheme of schemes) {
          now = `${file} ${scheme}`
          await page.emulateMedia({ colorScheme: scheme })
          const { violations, passes } = await page.evaluate(rules => globalThis.axe.run(rules), RULES)
          judged('axe')
          if (passes.length === 0) problem('axe', now, 'judged nothing')
          for (const { id, nodes } of violations) problem('axe', now, `${id}: ${nodes.map(it => it.html.slice(0, 120))}`)
        }
        await page.setViewportSize({ width: 320, height: 640 })
        const wide = await page.evaluate(overflow)
        judged('320 px')
        if (wide) problem('320 px', now, wide)
        if (file.startsWith('en/')) await byKeyboard(page, now)
      }
    }
  })
}

async function byKeyboard (page, now) {
  const links = await page.evaluate(() => document.querySelectorAll('a, button, input:not([type=hidden]), select, textarea, summary').length)
  await page.evaluate(() => { document.activeElement?.blur(); scrollTo(0, 0) })
  let reached = 0
  for (let step = 0; step < links + 5; step++) {
    await page.keyboard.press('Tab')
    const at = await page.evaluate(focused)
    if (at.end) break
    reached++
    if (!at.shown || !at.seen) problem('keyboard', now, `no focus to be seen on ${at.what}`)
  }
  judged('keyboard')
  if (reached === 0) problem('keyboard', now, 'reaches nothing')
}

async function byPa11y () {
  const browser = await puppeteer.launch(launch)
  const work = pages.filter(file => all || file.startsWith('en/'))
  await inParallel(work, 2, async () => {
    const page = await browser.newPage()
    return {
      end: () => page.close(),
      work: async file => {
        const { issues } = await pa11y(`${server.origin}/${file}`, { browser, page, standard: 'WCAG2AA', runners: ['htmlcs'], timeout: 20000 })
        judged('pa11y')
        for (const issue of issues) problem('pa11y', file, `${issue.code} ${issue.selector} ${issue.message}`)
      }
    }
  })
  await browser.close()
}

async function byVnu () {
  const files = pages.filter(file => all || /^(en|ar)\//.test(file)).map(file => join(gallery, file))
  const css = ['--also-check-css']
  const jar = require.resolve('vnu-jar/build/dist/vnu.jar')
  const { stderr } = await promisify(execFile)('java', ['-Xss1m', '-jar', jar, '--format', 'json', '--exit-zero-always', ...css, ...files], { maxBuffer: 1 << 26 })
  for (const { url, type, message, extract } of JSON.parse(stderr).messages) {
    if (type !== 'info') problem('vnu', url.replace(/.*\/(?=[^/]*\/[^/]*$)/, ''), `${message} ${extract ?? ''}`)
  }
  counts.vnu = files.length
}

await timed('vnu', byVnu)
await timed('chromium', async () => {
  const browser = await chromium.launch(launch)
  await inChromium(browser)
  await browser.close()
})
await timed('pa11y', byPa11y)
server.close()
for (const line of problems) console.log(line)
console.log(JSON.stringify({ problems: problems.length, counts, seconds }))
process.exitCode = problems.length > 0 ? 1 : 0
