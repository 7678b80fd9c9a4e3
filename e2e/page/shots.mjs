// Takes pictures of the gallery: node shots.mjs GALLERY OUT [filter] [widths] [languages] [schemes]
import { chromium } from 'playwright-core'
import { mkdirSync, readFileSync } from 'node:fs'
import { serve } from './serve.mjs'

const [gallery, out, filter = '', widths = '320,1280', languages = 'en,ar', schemes = 'light,dark'] = process.argv.slice(2)
const server = await serve(gallery)
const { pages } = JSON.parse(readFileSync(`${gallery}/index.json`, 'utf8'))
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] })
mkdirSync(out, { recursive: true })
for (const width of widths.split(',').map(Number)) {
  for (const scheme of schemes.split(',')) {
    const context = await browser.newContext({ viewport: { width, height: 700 }, colorScheme: scheme, javaScriptEnabled: false })
    const page = await context.newPage()
    for (const file of pages) {
      const [folder, name] = file.split('/')
      if (!languages.split(',').includes(folder) || !new RegExp(filter).test(name)) continue
      if (name === 'leaving.html') continue
      await page.goto(`${server.origin}/${file}`)
      await page.screenshot({ path: `${out}/${name.replace('.html', '')}-${folder}-${scheme}-${width}.png`, fullPage: true })
    }
    await context.close()
  }
}
await browser.close()
server.close()
