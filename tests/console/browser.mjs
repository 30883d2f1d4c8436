// People at the page of the documentation, in a headless Chromium: each signs in at the provider and calls; who
// `tries_first` has called before that too. Reads its task, {program, profile, shots, pages: [{url, email,
// password, tries_first}]}, from its input and writes what it saw of each page, as JSON. Run it in the folder that
// has playwright-core.
import { createRequire } from 'node:module';
import { text } from 'node:stream/consumers';

const { chromium } = createRequire(process.cwd() + '/')('playwright-core');

const task = JSON.parse(await text(process.stdin));
const browser = await chromium.launchPersistentContext(task.profile, {
  executablePath: task.program,
  viewport: { width: 1280, height: 900 },
  reducedMotion: 'reduce',
  args: [
    // As root there is no other way; what is opened here is ours.
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});
browser.setDefaultTimeout(60_000);
try {
  const seen = await Promise.all(task.pages.map(visit));
  process.stdout.write(JSON.stringify(seen));
} finally {
  await browser.close();
}

async function visit(person, at) {
  const violations = [];
  const errors = [];
  const origins = new Set();
  const watch = (page) => {
    page.on('console', (message) => {
      if (/content security policy|cross-origin-opener/i.test(message.text())) violations.push(message.text());
    });
    page.on('pageerror', (error) => errors.push(String(error)));
    page.on('request', (request) => {
      const url = new URL(request.url());
      if (url.protocol.startsWith('http')) origins.add(url.origin);
    });
  };
  const page = await browser.newPage();
  watch(page);
  page.on('popup', watch);
  const shot = (name) => task.shots && page.screenshot({ path: `${task.shots}/${at}-${name}.png` });

  try {
    return { ...(await use(page, person, shot)), violations, errors, origins: [...origins].sort() };
  } catch (error) {
    await shot('failed');
    const shown = await page.locator('.dialog-ux, .errors-wrapper').allInnerTexts();
    console.error({ violations, errors, origins, shown });
    throw error;
  } finally {
    await page.close();
  }
}

async function use(page, person, shot) {
  await page.goto(`${person.url}/docs`);
  await page.locator('#swagger-ui .auth-wrapper .authorize').first().waitFor();
  await shot('signed-out');
  let list = person.tries_first && (await operation(page, 'list_pools'));
  const signedOut = list && (await list.execute());

  await page.locator('.scheme-container .auth-wrapper .authorize').click();
  const dialog = page.locator('.dialog-ux');
  const scheme = dialog.locator('.auth-container', { hasText: 'sign_in' });
  await scheme.waitFor();
  await shot('dialog');
  const secret = await scheme.getByLabel('client_secret').isVisible();
  const opened = page.waitForEvent('popup');
  await scheme.locator('button.authorize').click();
  const popup = await opened;
  await popup.fill('[name=email]', person.email);
  await popup.fill('[name=password]', person.password);
  const closed = popup.waitForEvent('close');
  await popup.click('button');
  await closed;
  await scheme.getByText('Logout').waitFor();
  await shot('signed-in');
  await dialog.locator('.btn-done').first().click();

  list ||= await operation(page, 'list_pools');
  const pools = await list.execute();
  await shot('answer');
  return { asks_for_secret: secret, signed_out: signedOut, pools };
}

// An operation that is open to be tried.
async function operation(page, id) {
  const block = page.locator(`.opblock[id$="-${id}"]`);
  await block.locator('.opblock-summary-control').click();
  await block.locator('.try-out__btn').click();
  const execute = async () => {
    const called = page.waitForResponse((response) => new URL(response.url()).pathname.startsWith('/v1/'));
    await block.locator('button.execute').click();
    const response = await called;
    // What the page itself shows of it.
    const shown = block.locator('.live-responses-table .response-col_status');
    await shown.filter({ hasText: String(response.status()) }).last().waitFor();
    const authorization = (await response.request().allHeaders()).authorization ?? '';
    return {
      status: response.status(),
      bearer: authorization.replace(/^Bearer /, ''),
      answer: await response.json(),
    };
  };
  return { execute };
}
